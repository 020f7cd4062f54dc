# expect: failed HOME LANG PATH TMPDIR
import os

raise SystemExit(" ".join(sorted(name for name in os.environ if name != "LC_CTYPE")))
