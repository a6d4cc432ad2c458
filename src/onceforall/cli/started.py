"""When this process began, as well as Python can say: imported before anything heavy."""

import time

STARTED = time.monotonic()
