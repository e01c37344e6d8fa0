from trimtab.features.aggregates import *
from trimtab.features.aggregates import Aggregate as Aggregate
from trimtab.features.aggregates import Several as Several
from trimtab.features.definitions import Entity as Entity
from trimtab.features.definitions import Join as Join
from trimtab.features.definitions import Label as Label
from trimtab.features.definitions import Request as Request
from trimtab.features.definitions import View as View
from trimtab.features.definitions import entity as entity
from trimtab.features.definitions import label as label
from trimtab.features.definitions import request as request
from trimtab.features.definitions import view as view
from trimtab.features.encoding import Encoding as Encoding
from trimtab.features.encoding import fit as fit
from trimtab.features.feature_set import FeatureSet as FeatureSet
from trimtab.features.frames import REASONS as REASONS
from trimtab.features.frames import FeatureFrame as FeatureFrame
from trimtab.features.frames import Reason as Reason
from trimtab.features.labels import LABEL_STATES as LABEL_STATES
from trimtab.features.labels import LabelFrame as LabelFrame
from trimtab.features.labels import LabelIndex as LabelIndex
from trimtab.features.labels import LabelState as LabelState
from trimtab.features.offline.evaluation import evaluate as evaluate
from trimtab.features.online.read.request_plan import OnlineRows as OnlineRows
from trimtab.features.online.read.request_plan import RequestPlan as RequestPlan
from trimtab.features.online.store import Applied as Applied
from trimtab.features.online.store import OnlineStore as OnlineStore
from trimtab.features.online.store import ViewApplied as ViewApplied

__all__: list[str]
