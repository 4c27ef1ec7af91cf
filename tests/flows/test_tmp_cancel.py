import pytest
from tests.flows.test_deployed import test_cancelling_stops_the_flow_run_and_what_was_committed_stays as t
@pytest.mark.parametrize("i", range(6))
def test_again(i, deployed, tmp_path):
    t(deployed, tmp_path)
