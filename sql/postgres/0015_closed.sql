-- Plans and contracts of 0.4.0 are closed: agreements have replaced them, and what somebody enters here would be billed to nobody.

-- migrate: up
CREATE TRIGGER refuse_change BEFORE INSERT OR UPDATE ON contracts FOR EACH ROW
    EXECUTE FUNCTION billing.refuse_change('agreements have replaced contracts; enter one by ninjait billing enter --agreement FILE');
CREATE TRIGGER refuse_change BEFORE INSERT OR UPDATE ON price_plans FOR EACH ROW
    EXECUTE FUNCTION billing.refuse_change('billing.price_versions has replaced price plans; ninjait billing enter --agreement FILE enters prices with an agreement');
COMMENT ON TABLE price_plans IS 'Closed: billing.prices and billing.plans have taken over what was published until 0.4.0.';
COMMENT ON TABLE contracts IS 'Closed: billing.agreements has taken over what was agreed until 0.4.0.';

-- migrate: down
COMMENT ON TABLE contracts IS 'In force on local days from starts_on until ends_on (exclusive) or the next contract, whichever is first.';
COMMENT ON TABLE price_plans IS 'A published version never changes: a new price is a new version.';
DROP TRIGGER refuse_change ON price_plans;
DROP TRIGGER refuse_change ON contracts;
