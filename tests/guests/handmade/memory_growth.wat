;; Grows four memories by turns. Denied more by GUEST_MEMORY, which is for their sum, and gives up.
(memory $a 0) (memory $b 0) (memory $c 0) (memory $d 0)
(func $provoked (param i32)
    (loop
        (if (i32.eq (memory.grow $a (i32.const 16)) (i32.const -1)) (then unreachable))
        (if (i32.eq (memory.grow $b (i32.const 16)) (i32.const -1)) (then unreachable))
        (if (i32.eq (memory.grow $c (i32.const 16)) (i32.const -1)) (then unreachable))
        (if (i32.eq (memory.grow $d (i32.const 16)) (i32.const -1)) (then unreachable))
        (br 0)))
