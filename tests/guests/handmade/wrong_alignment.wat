;; Returns a list of events at an odd address. The host reads no such list: that is a trap.
(func $provoked (param $verdict i32)
    (i32.store8 (local.get $verdict) (i32.const 1)) ;; expand
    (i32.store offset=8 (local.get $verdict) (i32.const 1025))
    (i32.store offset=12 (local.get $verdict) (i32.const 1)))
