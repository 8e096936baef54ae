"""Tests of the stores. The contract modules hold every implementation of an interface to the same promises."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.queue_contract", f"{__name__}.metrics_contract")
