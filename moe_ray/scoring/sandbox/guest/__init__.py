"""What runs inside the sandbox: the standard library only, and nothing of moe_ray outside this folder.

Three processes share one box. The *warden* starts the other two, holds the clock, counts output and alone may
report. The *player* runs the generated program. The *judge* runs the tests: names that the program defines are
stand-ins there, whose calls go to the player and whose results come back as plain data. So expected values, the
asserts and the verdict live where the program cannot reach, and a program passes only by returning what the tests
expect.

A process here lives for some hundredths of a second, so imports are counted: no `typing`, `signal`, `re`, `pathlib`.

Not covered: a verdict that a test itself leaves to the program. `assert f(x)` holds for any true value, and two
objects of the program's own classes are equal when those classes say so. Tests cannot catch an exception class that
the program defines.
"""
