# expect: failed exit code 0 half-way
import sys

sys.exit(0)
