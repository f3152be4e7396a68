"""Manifests: `load_manifest` reads one, and these are what it is made of."""

from r1pipe.manifest.loading import Manifest, load_manifest
from r1pipe.manifest.nodes import SourceNode, StageNode
from r1pipe.manifest.references import Ref
from r1pipe.manifest.yaml_source import Origin

__all__ = ["Manifest", "Origin", "Ref", "SourceNode", "StageNode", "load_manifest"]
