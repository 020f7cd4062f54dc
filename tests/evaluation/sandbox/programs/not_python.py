# expect: failed SyntaxError
def add(a, b
