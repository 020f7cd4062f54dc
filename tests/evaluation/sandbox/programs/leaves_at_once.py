# expect: failed exit code 0 half-way
import os

os._exit(0)
