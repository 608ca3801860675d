-- UPDATE of 10% of the posts by date | 0.65
UPDATE posts SET likes = likes + 1 WHERE created < '2026-01-24';
