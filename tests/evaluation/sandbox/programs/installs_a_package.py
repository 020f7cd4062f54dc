# expect: failed ModuleNotFoundError
import pydantic
