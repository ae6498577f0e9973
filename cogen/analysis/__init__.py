"""Analysis of adapters before and after a merge: diagnosis, search, contributions."""

from cogen.analysis.contributions import Shapley, leave_one_out, shapley
from cogen.analysis.diagnose import diagnose
from cogen.analysis.diagnosis import Diagnosis
from cogen.analysis.proposals import propose
from cogen.analysis.search import search
from cogen.analysis.trials import Candidate, Constraints, SearchResult

__all__ = [
    "Candidate",
    "Constraints",
    "Diagnosis",
    "SearchResult",
    "Shapley",
    "diagnose",
    "leave_one_out",
    "propose",
    "search",
    "shapley",
]
