;; Grows four memories by turns. Stopped by GUEST_MEMORY_BYTES, which is for their sum.
(memory $a 0) (memory $b 0) (memory $c 0) (memory $d 0)
(func $provoked (param i32)
    (loop
        (drop (memory.grow $a (i32.const 16)))
        (drop (memory.grow $b (i32.const 16)))
        (drop (memory.grow $c (i32.const 16)))
        (drop (memory.grow $d (i32.const 16)))
        (br 0)))
