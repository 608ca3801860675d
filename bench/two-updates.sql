\set a random(1, :rows)
\set b random(1, :rows)
BEGIN;
UPDATE posts SET score = score + 1 WHERE id = least(:a::bigint, :b::bigint);
UPDATE posts SET score = score - 1 WHERE id = greatest(:a::bigint, :b::bigint);
COMMIT;
