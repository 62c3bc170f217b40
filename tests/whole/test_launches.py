"""The number of kernels launched for a window of 16 rows on a model of Gemma 2B's shape, counted on the meta device.

Launches take most of a small window's time on a large GPU. Each operation that is not a view counts as one;
`benchmarks/launches.py` prints them by name.
"""

from __future__ import annotations

import pytest

from benchmarks.launches import count_launches

BUDGETS = {
    ("fast", "on"): 2440,
    ("fast", "off"): 2690,
    ("reference", "on"): 4100,
    ("triton", "on"): 1810,
    ("triton", "off"): 2060,
}


@pytest.mark.parametrize(("kernels", "dequantize"), list(BUDGETS))
def test_a_window_launches_no_more_kernels_than_its_budget(kernels: str, dequantize: str) -> None:
    if kernels == "triton":
        pytest.importorskip("triton", reason="needs triton, which torch for CUDA brings with it on Linux")
    of_two, of_three = (
        sum(count_launches(kernels, dequantize=dequantize, num_layers=number).values()) for number in (2, 3)
    )
    launches = of_two + (18 - 2) * (of_three - of_two)  # each layer has as many
    assert 1000 < launches <= BUDGETS[kernels, dequantize]


def test_a_recorded_window_is_one_launch_besides_writing_its_inputs() -> None:
    pytest.importorskip("triton", reason="needs triton, which torch for CUDA brings with it on Linux")
    of_two, of_three = (count_launches("graphs", dequantize="on", num_layers=number) for number in (2, 3))
    assert of_two["replay of a graph"] == 1 and sum(of_two.values()) <= 20
    assert of_two == of_three
