# expect: too_much_output printed more than
while True:
    print("x" * 1000)
