"""What all tests share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """One thread: seeded training repeats to the bit, and tests that run side by side do not wait for each other."""
    import torch

    torch.set_num_threads(1)
