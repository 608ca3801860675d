\set id random(1, :rows)
SELECT title FROM posts WHERE id = :id;
