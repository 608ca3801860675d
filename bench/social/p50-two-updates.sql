-- two UPDATEs on two nodes in a block | 2.5 | 0.35
\set a random(1, :users / 2)
\set b random(:users / 2 + 1, :users)
BEGIN;
UPDATE users SET age = age + 1 WHERE id = :a;
UPDATE users SET age = age - 1 WHERE id = :b;
COMMIT;
