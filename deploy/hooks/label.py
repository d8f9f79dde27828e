"""Labels each container with its pod's namespace, and refuses privileged ones outside kube-system.

::

    rules:
    - name: label
      match: {methods: [CreateContainer]}
      hook: {script: hooks/label.py, may_deny: true}
"""

from criproxy.hook import Call, Deny


def request(call: Call) -> None:
    """Look at what CreateContainer asks for."""
    pod = call.message.sandbox_config.metadata
    config = call.message.config
    if config.linux.security_context.privileged and pod.namespace != "kube-system":
        raise Deny("PERMISSION_DENIED", f"no privileged containers in namespace {pod.namespace}")
    config.labels["example.com/namespace"] = pod.namespace
