"""For trying vLLM's model runner V2 on a CPU, where PyPI has no Triton: its interpreter stands in, if both variables ask for
it. vLLM looks for a backend of this name before it turns Triton off.

Nearly all of a step's time is the interpreter's. Two things that it does again and again are done once: wrapping the whole
language for every function that a kernel calls (it is wrapped while the kernel runs), and a table of kinds of numbers."""

import os

if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1" and os.environ.get("TRITON_INTERPRET") == "1":
    from triton import backends
    from triton.runtime import interpreter

    class _Interpreter:
        """Says that it is there."""

        @staticmethod
        def is_active() -> bool:
            return True

    backends.backends["cpu"] = backends.Backend(compiler=None, driver=_Interpreter)

    _look_up, _known, _wrapped = interpreter._get_np_dtype, {}, set()

    def _number(kind):
        """numpy's name for a kind of number; that of a block is that of its elements."""
        name = str(getattr(kind, "element_ty", kind)) if isinstance(kind, interpreter.tl.block_type) else str(kind)
        if name not in _known:
            _known[name] = _look_up(kind)
        return _known[name]

    def _call(self, *args, **kwargs):
        """A function that a kernel calls; the kernel has wrapped `triton.language`, and the part inside it stays wrapped."""
        core = interpreter.tl.core
        if self not in _wrapped:
            if core not in _wrapped and any(value is core for value in self.fn.__globals__.values()):
                interpreter._patch_lang(self.fn)
                _wrapped.add(core)
            _wrapped.add(self)
        try:
            return self.rewrite()(*args, **kwargs)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    interpreter._get_np_dtype, interpreter.InterpretedFunction.__call__ = _number, _call
