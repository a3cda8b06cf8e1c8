"""What ranks agree on without waiting for each other: the first to come says it, and the others take it over."""

from __future__ import annotations

import torch.distributed as dist

from nntrain.ranks.world import current_world


def first_said(about: str, text: str) -> str:
    """Return what the first rank that came here said, for all others that come here `about` the same.

    A rank's nth call about something is about the same as the nth call of each other rank. It is no collective: a rank
    that never comes holds up nobody. A process by itself gets its own `text`.
    """
    world = current_world()
    if world.single:
        return text
    store = dist.distributed_c10d._get_default_store()
    call = store.add(f"nntrain/said/{about}/of/{world.rank}", 1)
    said: bytes = store.compare_set(f"nntrain/said/{about}/{call}", "", text)
    return said.decode()
