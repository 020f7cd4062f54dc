# expect: passed
import math, collections, random, heapq, itertools, re, string, datetime, decimal, fractions, threading, tempfile


def add(a, b):
    return a + b


assert add(2, 3) == 5
done = []
thread = threading.Thread(target=lambda: done.append(1))
thread.start()
thread.join()
assert done
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("scratch")
