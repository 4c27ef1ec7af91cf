from tidemill.config import Pipeline as Pipeline
from tidemill.config import load_pipeline as load_pipeline
from tidemill.errors import TidemillError as TidemillError
from tidemill.lake import Lake as Lake
from tidemill.planning.plan import make_plan as make_plan
from tidemill.running.recording import RunResult as RunResult
from tidemill.running.run import Run as Run

__all__ = ["Lake", "Pipeline", "Run", "RunResult", "TidemillError", "load_pipeline", "make_plan"]
