import os
import sys

from .cli import main

try:
    try:
        main()
    finally:
        sys.stdout.flush()  # here, where what reads it may have gone, as `head` does
except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes it once more
    sys.exit(1)
