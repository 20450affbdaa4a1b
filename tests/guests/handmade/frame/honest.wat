;; The core module of every handmade guest. It discards every entry, and calls `$provoked` with the verdict of one
;; that has more than one field, as an entry with the field `provoke` has.
(core module $honest
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))

    ;; Gives memory that was never used, and takes none back: an instance lives for one batch.
    (func $allocate (param $align i32) (param $size i32) (result i32) (local $at i32)
        (local.set $at (i32.and
            (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
            (i32.sub (i32.const 0) (local.get $align))))
        (global.set $free (i32.add (local.get $at) (local.get $size)))
        (loop $more
            (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
                (then (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br $more))))
        (local.get $at))
    (func $reallocate (param i32 i32) (param $align i32) (param $size i32) (result i32)
        (call $allocate (local.get $align) (local.get $size)))
    (export "realloc" (func $reallocate))

    ;; An entry takes 24 bytes, the number of its fields at 20; a verdict takes 56: its case, and at 8 what is in it.
    (func (export "process") (param $entry i32) (param $count i32) (result i32)
        (local $verdict i32) (local $returned i32)
        (local.set $verdict (call $allocate (i32.const 8) (i32.mul (local.get $count) (i32.const 56))))
        (local.set $returned (call $allocate (i32.const 4) (i32.const 8)))
        (i32.store (local.get $returned) (local.get $verdict))
        (i32.store offset=4 (local.get $returned) (local.get $count))
        (loop $next
            (i32.store8 (local.get $verdict) (i32.const 3)) ;; discard, without a reason
            (if (i32.gt_u (i32.load offset=20 (local.get $entry)) (i32.const 1))
                (then (call $provoked (local.get $verdict))))
            (local.set $entry (i32.add (local.get $entry) (i32.const 24)))
            (local.set $verdict (i32.add (local.get $verdict) (i32.const 56)))
            (br_if $next (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
        (local.get $returned))

    {more})
