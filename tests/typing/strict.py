"""What mypy is told by who has no plugin, and where it keeps what it learns of torch: the tests' runs share it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SKIPPED: Final = [
    *("torch._dynamo", "torch._export", "torch._functorch", "torch._higher_order_ops", "torch._inductor"),
    *("torch._native", "torch.ao", "torch.export", "torch.fx", "torch.onnx", "sympy"),
    *("cryptography", "mlflow", "pandas", "sqlalchemy", "torchmetrics", "wandb"),
]
"""What no message names. Where mypy reads it as well, it takes twice as long, and says the same."""
STRICT: Final = f"""
[mypy]
python_version = 3.11
strict = True
[mypy-{",".join(f"{one}.*" for one in _SKIPPED)}]
follow_imports = skip
"""
CACHE: Final = Path(__file__).parents[2] / ".mypy_cache" / "strict"
"""For `STRICT` alone, and what comes to the same: mypy checks anew what it checked with other options."""
