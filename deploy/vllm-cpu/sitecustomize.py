"""For trying vLLM's model runner V2 on a CPU, where PyPI has no Triton: its interpreter stands in, if both variables ask for
it. vLLM looks for a backend of this name before it turns Triton off."""

import os

if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1" and os.environ.get("TRITON_INTERPRET") == "1":
    from triton import backends

    class _Interpreter:
        """Says that it is there."""

        @staticmethod
        def is_active() -> bool:
            return True

    backends.backends["cpu"] = backends.Backend(compiler=None, driver=_Interpreter)
