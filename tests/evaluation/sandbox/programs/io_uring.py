# expect: failed refused
import ctypes

ring = ctypes.CDLL(None, use_errno=True).syscall(425, 8, ctypes.create_string_buffer(120))
raise SystemExit("refused" if ring == -1 and ctypes.get_errno() == 1 else f"got {ring}, errno {ctypes.get_errno()}")
