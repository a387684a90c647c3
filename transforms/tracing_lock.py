"""One trace at a time: torch.fx and the recording of calls patch PyTorch for as long as they run."""

from __future__ import annotations

import threading

#: Held by whoever traces or lowers; the same thread may take it again.
TRACING_LOCK = threading.RLock()
