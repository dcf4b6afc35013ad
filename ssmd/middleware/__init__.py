"""What stands between the journal and other programs: a bus, an object store, a cache, and journals as such.

`interfaces` says what each promises, `memory` is the reference, the other modules stand on one library each, and
`factory` is the only one that names them. docs/middleware.md.
"""
