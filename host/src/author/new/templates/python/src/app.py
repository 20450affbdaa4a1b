"""
What the component exports. Capabilities, and settings, go from here to the judge, whose second argument they are: what is
imported here must be imported in wit/world.wit too, and granted in sluicegate.toml.
"""

from rules import judge
from sluicegate.component import component

# from wit_world.imports import config, metrics, store, stream

Handler = component(judge)
