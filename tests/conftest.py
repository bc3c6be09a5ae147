"""Set before torch loads: threads that spin for work would slow each other down."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes share the cores
