;; Calls through a type that others may refine, which is a part of garbage collection. Refused at load.
(type $open (sub (func)))
(type $other (func (param i32)))
(func $target (type $other))
(table $table 1 funcref)
(elem (table $table) (i32.const 0) func $target)
(func $provoked (param i32)
  (call_indirect $table (type $open) (i32.const 0)))
