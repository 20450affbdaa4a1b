;; Grows a table until there is no more. Denied more by GUEST_TABLE_ELEMENTS, and gives up.
(table $t 0 funcref)
(func $provoked (param i32)
    (loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
    unreachable)
