"""Run the stages in order on this machine, into one run folder, reusing what is finished.

Nothing is imported here: a pod of the pipeline keeps records as `lorapar.local.folder` does and needs no more of it.
"""
