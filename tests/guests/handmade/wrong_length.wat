;; Returns a list of a billion events at an address of its own. The host reads nothing beyond its memory: that is a trap.
(func $provoked (param $verdict i32)
    (i32.store8 (local.get $verdict) (i32.const 1)) ;; expand
    (i32.store offset=8 (local.get $verdict) (i32.const 1024))
    (i32.store offset=12 (local.get $verdict) (i32.const 1000000000)))
