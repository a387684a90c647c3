"""One trace at a time: torch.fx and the recording of calls patch PyTorch for as long as they run."""

from __future__ import annotations

import threading

#: Held by whoever traces, lowers or calls make_fx; the same thread may take it again. Other threads may run networks
#: meanwhile: what patches torch leaves their calls alone.
TRACING_LOCK = threading.RLock()
