;; Returns a string beyond the end of its memory. The host reads nothing there: that is a trap.
(func $provoked (param $verdict i32)
    (i32.store offset=8 (local.get $verdict) (i32.const 0xfffffff0))
    (i32.store offset=12 (local.get $verdict) (i32.const 8)))
