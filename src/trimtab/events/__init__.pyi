from trimtab.events.batch import Problem as Problem
from trimtab.events.columns.frames import NEVER_US as NEVER_US
from trimtab.events.columns.frames import EventFrame as EventFrame
from trimtab.events.columns.history import History as History
from trimtab.events.definitions import Source as Source
from trimtab.events.definitions import Time as Time
from trimtab.events.definitions import source as source
from trimtab.events.files.files import Rows as Rows
from trimtab.events.files.files import Table as Table
from trimtab.events.files.files import read_file as read_file
from trimtab.events.files.files import read_rows as read_rows
from trimtab.events.ingest import Ingestor as Ingestor
from trimtab.events.ingest import Pushed as Pushed
from trimtab.events.quarantine import Quarantine as Quarantine
from trimtab.events.quarantine import Quarantined as Quarantined
from trimtab.events.quarantine import Replayed as Replayed
from trimtab.events.quarantine import SetAside as SetAside
from trimtab.events.records import Event as Event
from trimtab.events.records import decode as decode
from trimtab.events.records import encode as encode
from trimtab.events.records import known_at_us as known_at_us
from trimtab.events.tables import Materialised as Materialised
from trimtab.events.tables import materialise as materialise
from trimtab.events.values.fitting import BadRow as BadRow
from trimtab.events.values.fitting import FileRows as FileRows

__all__: list[str]
