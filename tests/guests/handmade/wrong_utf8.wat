;; Returns a string that is not UTF-8. The host reads no string that is none: that is a trap.
(data (i32.const 8) "\ff\fe")
(func $provoked (param $verdict i32)
    (i32.store offset=8 (local.get $verdict) (i32.const 8))
    (i32.store offset=12 (local.get $verdict) (i32.const 2)))
