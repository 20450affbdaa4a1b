;; Grows a table until there is no more. Stopped by GUEST_TABLE_ELEMENTS.
(table $t 0 funcref)
(func $provoked (param i32)
    (loop (drop (table.grow $t (ref.null func) (i32.const 1000))) (br 0)))
