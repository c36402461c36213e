import pytest

from fgvc_lib.errors import DataError
from fgvc_lib.runs import Run


def test_a_run_that_is_not_finished(tmp_path):
    assert not Run(tmp_path).finished
    with pytest.raises(DataError, match=r"metrics.jsonl is missing.*not finished"):
        _ = Run(tmp_path).metrics
