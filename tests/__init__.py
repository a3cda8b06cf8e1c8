"""The tests of nntrain, laid out as the package is; the laws are in tests/laws."""

import os
import sys
from pathlib import Path

if sys.dont_write_bytecode:
    # The tests start dozens of processes that import torch. Where none may leave its bytecode beside the source
    # (PYTHONDONTWRITEBYTECODE, in containers), each of them would compile it all anew: here they share a folder.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
