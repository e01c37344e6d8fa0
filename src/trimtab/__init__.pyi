from trimtab.app.project import Project as Project
from trimtab.app.project import open as open
from trimtab.core.errors import Conflict as Conflict
from trimtab.core.errors import Corrupt as Corrupt
from trimtab.core.errors import Misuse as Misuse
from trimtab.core.errors import NotFound as NotFound
from trimtab.core.errors import TrimtabError as TrimtabError
from trimtab.core.errors import Unavailable as Unavailable
from trimtab.core.expressions.functions import transform as transform
from trimtab.core.expressions.nodes import col as col
from trimtab.core.expressions.nodes import lit as lit
from trimtab.core.expressions.nodes import when as when
from trimtab.events.definitions import Time as Time
from trimtab.events.definitions import source as source
from trimtab.experiments.declaring import experiment as experiment
from trimtab.experiments.declaring import switchback as switchback
from trimtab.experiments.metrics import metric as metric
from trimtab.features.aggregates import *
from trimtab.features.definitions import entity as entity
from trimtab.features.definitions import label as label
from trimtab.features.definitions import request as request
from trimtab.features.definitions import view as view
from trimtab.monitoring.guardrails import guardrails as guardrails
from trimtab.serving.answer.score_cache import cache as cache
from trimtab.serving.client import connect as connect
from trimtab.serving.protect.degradation import degrade as degrade
from trimtab.simulation.generating.streams import stream as stream
from trimtab.stats.metrics.loss_names import ndcg_loss as ndcg_loss
from trimtab.stats.metrics.loss_names import pinball as pinball
from trimtab.steering.causes import every as every
from trimtab.steering.causes import on_estimated_drop as on_estimated_drop
from trimtab.steering.causes import on_new_labels as on_new_labels
from trimtab.steering.causes import on_quality_drop as on_quality_drop
from trimtab.steering.causes import on_skew as on_skew
from trimtab.steering.causes import on_slice_drop as on_slice_drop
from trimtab.steering.definitions import beats_champion as beats_champion
from trimtab.steering.definitions import deployment as deployment
from trimtab.steering.rollouts import rollout as rollout
from trimtab.training.definitions import model as model
from trimtab.training.search import choice as choice
from trimtab.training.search import integer as integer
from trimtab.training.search import number as number
from trimtab.training.search import search as search
from trimtab.training.weighting import sample as sample

__all__: list[str]
__version__: str
