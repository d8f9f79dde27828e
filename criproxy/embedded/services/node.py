"""The methods about the runtime: version, status, configuration, events."""

import json
from typing import Final

from criproxy import __version__
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.services.sandboxes import RUNTIME_HANDLERS
from criproxy.embedded.state.events import Subscription
from criproxy.embedded.state.store import Store

RUNTIME_NAME: Final = "criproxy-embedded"
KUBELET_API: Final = "0.1.0"
"""Version of the kubelet's runtime API, which every runtime returns."""


class NodeService:
    """The methods about the runtime, in one API version."""

    def __init__(self, store: Store, api_version: str) -> None:
        self._store = store
        self._api_version = api_version

    def version(self, _: v1.VersionRequest) -> v1.VersionResponse:
        """Return the runtime's name and version."""
        return v1.VersionResponse(
            version=KUBELET_API,
            runtime_name=RUNTIME_NAME,
            runtime_version=__version__,
            runtime_api_version=self._api_version,
        )

    def status(self, request: v1.StatusRequest) -> v1.StatusResponse:
        """Return that runtime and network are ready, with the configuration when verbose."""
        conditions = [
            v1.RuntimeCondition(type="RuntimeReady", status=True),
            v1.RuntimeCondition(type="NetworkReady", status=True),
        ]
        config = {"podCIDR": self._store.pod_cidr, "systemdCgroup": False}
        info = {"config": json.dumps(config), "lastCNILoadStatus": "OK"} if request.verbose else {}
        return v1.StatusResponse(
            status=v1.RuntimeStatus(conditions=conditions),
            info=info,
            runtime_handlers=[
                v1.RuntimeHandler(name=name, features=v1.RuntimeHandlerFeatures())
                for name in RUNTIME_HANDLERS
            ],
            features=v1.RuntimeFeatures(),
        )

    def runtime_config(self, _: v1.RuntimeConfigRequest) -> v1.RuntimeConfigResponse:
        """Return the cgroup driver."""
        linux = v1.LinuxRuntimeConfiguration(cgroup_driver=v1.CGROUPFS)
        return v1.RuntimeConfigResponse(linux=linux)

    def update_runtime_config(
        self, request: v1.UpdateRuntimeConfigRequest
    ) -> v1.UpdateRuntimeConfigResponse:
        """Store the pods' address range, which the verbose status shows."""
        self._store.pod_cidr = request.runtime_config.network_config.pod_cidr
        return v1.UpdateRuntimeConfigResponse()

    def get_container_events(self, _: v1.GetEventsRequest) -> Subscription:
        """Return the events from now on, without end."""
        return self._store.events.subscribe()
