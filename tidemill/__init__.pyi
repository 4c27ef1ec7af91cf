from tidemill.api import plan as plan
from tidemill.api import run as run
from tidemill.api import sql as sql
from tidemill.api import status as status
from tidemill.api import verify as verify
from tidemill.config import Pipeline as Pipeline
from tidemill.config import load_pipeline as load_pipeline
from tidemill.errors import TidemillError as TidemillError
from tidemill.lake import Lake as Lake
from tidemill.planning.plan import make_plan as make_plan
from tidemill.running.recording import RunResult as RunResult
from tidemill.running.run import Run as Run

__version__: str
__all__ = [
    "Lake",
    "Pipeline",
    "Run",
    "RunResult",
    "TidemillError",
    "__version__",
    "load_pipeline",
    "make_plan",
    "plan",
    "run",
    "sql",
    "status",
    "verify",
]
