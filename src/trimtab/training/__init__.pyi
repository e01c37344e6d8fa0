from trimtab.training.data.sets import TrainingSet as TrainingSet
from trimtab.training.data.sets import build_training_set as build_training_set
from trimtab.training.data.sets import save_training_set as save_training_set
from trimtab.training.definitions import Costs as Costs
from trimtab.training.definitions import Metric as Metric
from trimtab.training.definitions import Model as Model
from trimtab.training.definitions import model as model
from trimtab.training.environment import Environment as Environment
from trimtab.training.fitting.fit import fit as fit
from trimtab.training.fitting.fitted import Fitted as Fitted
from trimtab.training.fitting.online import OnlineLearner as OnlineLearner
from trimtab.training.fitting.online import fit_online as fit_online
from trimtab.training.fitting.splits import TimeSplit as TimeSplit
from trimtab.training.fitting.splits import time_split as time_split
from trimtab.training.fitting.splits import walk_forward as walk_forward
from trimtab.training.judge.evaluation import Evaluation as Evaluation
from trimtab.training.judge.evaluation import evaluate as evaluate
from trimtab.training.judge.evaluation import save_evaluation as save_evaluation
from trimtab.training.judge.importance import Permuted as Permuted
from trimtab.training.judge.learning_curve import CurvePoint as CurvePoint
from trimtab.training.judge.parts import Month as Month
from trimtab.training.judge.parts import Slice as Slice
from trimtab.training.judge.parts import Week as Week
from trimtab.training.runtimes.estimators import neural as neural
from trimtab.training.runtimes.estimators import onnx as onnx

__all__: list[str]
