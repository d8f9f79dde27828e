"""Makes the hook that a rule names: a script or a webhook, imported only where it is used."""

from pathlib import Path

from criproxy.enforce.hooks.hook import Hook
from criproxy.rules.spec import HookSpec


def make_hook(spec: HookSpec, base_dir: Path) -> Hook:
    """Make the hook that a rule asks for; a script's path is relative to ``base_dir``.

    Raises ValueError, or OSError, for what cannot be used.
    """
    if spec.script is not None:
        from criproxy.enforce.hooks.scripts import ScriptHook

        return ScriptHook(spec, base_dir)
    from criproxy.enforce.hooks.webhooks import Webhook

    return Webhook(spec)
