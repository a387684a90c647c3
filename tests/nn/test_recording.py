"""When a graph is being recorded."""

from __future__ import annotations

from threading import Event, Thread

import torch

from binmat.nn.recording import is_recorded
from binmat.transforms.lowering.one_float_type import OneFloatType


def test_modes_of_other_threads_do_not_count() -> None:
    inside, later, ended = Event(), Event(), Event()
    heard: list[bool] = []

    def first() -> None:
        with OneFloatType(torch.float64):
            heard.append(is_recorded(torch.ones(1)))
            inside.set()
            later.wait()
        ended.set()

    def second() -> None:
        inside.wait()
        heard.append(is_recorded(torch.ones(1)))
        with OneFloatType(torch.float64):
            later.set()
            ended.wait()

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert heard == [True, False]
    assert not is_recorded(torch.ones(1))
