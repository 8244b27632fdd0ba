"""The models under test are small: their matrices are not worth sharing between threads."""

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # tests.portable asks for four
    yield
    torch.set_num_threads(threads)
