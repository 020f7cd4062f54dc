# expect: failed refused
import ctypes

buffer = ctypes.create_string_buffer(64)
libc = ctypes.CDLL(None, use_errno=True)
for parent in (@STAGE@, @WARDEN@):
    assert libc.ptrace(16, parent, 0, 0) == -1
    assert libc.process_vm_readv(parent, buffer, 1, buffer, 1, 0) == -1
raise SystemExit("refused")
