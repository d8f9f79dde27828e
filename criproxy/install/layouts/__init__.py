"""How distributions tell their kubelet where the runtime is.

- ``setup``: what is found of a kubelet's configuration, and what a layout has to offer.
- ``kubelet_service``: kubeadm, and any other kubelet that is a service of its own.
- ``k3s``, ``k0s``, ``microk8s``: distributions that write the kubelet's files or flags themselves;
  ``k3s`` includes RKE2.
- ``find``: which of them a tree has.
"""
